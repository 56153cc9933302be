;;; talaria-eglot.el --- Talaria as a server of Eglot -*- lexical-binding: t; -*-

;; SPDX-License-Identifier: Apache-2.0

;;; Commentary:

;; Eglot knows no inline completion, so the grey text is all this package's:
;;
;;   (add-hook 'python-base-mode-hook #'talaria-eglot)
;;
;; Eglot has one server for a buffer; beside another one of the same language, use lsp-mode.
;; It has to be 1.17, which is Emacs 30's, or newer.

;;; Code:

(require 'talaria)
(require 'eglot)

(defclass talaria-eglot-server (eglot-lsp-server) ()
  :documentation "Talaria's server, as Eglot knows it.")

;;;###autoload
(defun talaria-eglot ()
  "Have Eglot start Talaria's server for this buffer and those like it."
  (interactive)
  (setq-local eglot-server-programs
              (cons (cons major-mode #'talaria-eglot--contact) eglot-server-programs))
  (eglot-ensure))

(defun talaria-eglot--contact (&rest _)
  "Return what Eglot must know to start the server."
  (append (list 'talaria-eglot-server)
          (or (talaria-find-command)
              (user-error "Talaria: no program `talaria'; install it or set `%s'"
                          'talaria-server-command))
          (list :initializationOptions #'talaria-initialization-options)))

(cl-defmethod eglot-handle-notification
  ((server talaria-eglot-server) (_method (eql talaria/status)) &key state message
   &allow-other-keys)
  "Take over the STATE of SERVER and its MESSAGE."
  (talaria-heard server state message))

(cl-defmethod eglot-handle-request :before
  ((server talaria-eglot-server) (_method (eql workspace/applyEdit)) &rest _)
  "Tell SERVER first what was typed, so that no edit comes too late."
  (dolist (buffer (buffer-list))
    (with-current-buffer buffer
      (when (and (eglot-managed-p) (eq (eglot-current-server) server))
        (eglot--signal-textDocument/didChange)))))

(cl-defmethod eglot-execute ((_server talaria-eglot-server) action)
  "Carry out ACTION, a command or an action with one."
  (let ((command (plist-get action :command)))
    (talaria-act (if (stringp command) action command))))

(cl-defmethod talaria-server ((_client (eql eglot)))
  "Return Talaria's server, if that is the one of this buffer."
  (let ((server (and (eglot-managed-p) (eglot-current-server))))
    (and (cl-typep server 'talaria-eglot-server) (jsonrpc-running-p server) server)))

(cl-defmethod talaria-place ((_client (eql eglot)) position)
  "Return where POSITION is, as Eglot counts."
  (save-excursion
    (save-restriction
      (widen)
      (goto-char position)
      (list :uri (eglot-path-to-uri (buffer-file-name (buffer-base-buffer)))
            :position (list :line (1- (line-number-at-pos))
                            :character (funcall eglot-current-linepos-function))))))

(cl-defmethod talaria-send ((_client (eql eglot)) method params &optional then)
  "Send METHOD with PARAMS after what was typed; call THEN with the result."
  (when-let* ((server (talaria-server 'eglot)))
    (eglot--signal-textDocument/didChange)
    (if then
        (jsonrpc-async-request server (intern (concat ":" method)) params
                               :success-fn then
                               :error-fn
                               (cl-function
                                (lambda (&key code message &allow-other-keys)
                                  (talaria-failed code message)))
                               :timeout 60)
      (jsonrpc-notify server (intern (concat ":" method)) params))))

(defun talaria-eglot--managed ()
  "Show grey text in a buffer whose server is Talaria's, and in no other."
  (talaria-attend 'eglot))

(add-hook 'eglot-managed-mode-hook #'talaria-eglot--managed)

(provide 'talaria-eglot)
;;; talaria-eglot.el ends here
