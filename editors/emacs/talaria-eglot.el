;;; talaria-eglot.el --- Talaria as a server of Eglot -*- lexical-binding: t; -*-

;; SPDX-License-Identifier: Apache-2.0

;;; Commentary:

;; Eglot knows no inline completion, so the grey text is all this package's:
;;
;;   (add-hook 'python-base-mode-hook #'talaria-eglot)
;;
;; Eglot has one server for a buffer; beside another one of the same language, use lsp-mode.

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
  (dolist (buffer (eglot--managed-buffers server))
    (with-current-buffer buffer
      (eglot--signal-textDocument/didChange))))

(cl-defmethod talaria-server ((_client (eql eglot)))
  "Return Talaria's server, if that is the one of this buffer."
  (let ((server (and (eglot-managed-p) (eglot-current-server))))
    (and (cl-typep server 'talaria-eglot-server) (jsonrpc-running-p server) server)))

(cl-defmethod talaria-place ((_client (eql eglot)) position)
  "Return where POSITION is, as Eglot counts."
  (append (eglot--TextDocumentIdentifier)
          (list :position (eglot--pos-to-lsp-position position))))

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
