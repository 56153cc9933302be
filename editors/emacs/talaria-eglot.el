;;; talaria-eglot.el --- Talaria as an Eglot server -*- lexical-binding: t; -*-

;; SPDX-License-Identifier: Apache-2.0

;;; Commentary:

;; Eglot has no inline completion, so this package draws the ghost text:
;;
;;   (add-hook 'python-base-mode-hook #'talaria-eglot)
;;
;; Eglot runs one server per buffer; to run another one for the same language, use lsp-mode.
;; It must be version 1.17 (Emacs 30) or newer.

;;; Code:

(require 'talaria)
(require 'eglot)

(defclass talaria-eglot-server (eglot-lsp-server) ()
  :documentation "Talaria's server in Eglot.")

;;;###autoload
(defun talaria-eglot ()
  "Start Talaria's server with Eglot for this buffer and others of its mode."
  (interactive)
  (setq-local eglot-server-programs
              (cons (cons major-mode #'talaria-eglot--contact) eglot-server-programs))
  (eglot-ensure))

(defun talaria-eglot--contact (&rest _)
  "Return the contact for Eglot to start the server with."
  (append (list 'talaria-eglot-server)
          (or (talaria-find-command)
              (user-error "Talaria: no program `talaria'; install it or set `%s'"
                          'talaria-server-command))
          (list :initializationOptions #'talaria-initialization-options)))

(cl-defmethod eglot-handle-notification
  ((server talaria-eglot-server) (_method (eql talaria/status)) &key state message
   &allow-other-keys)
  "Store STATE and MESSAGE of SERVER."
  (talaria-set-state server state message))

(cl-defmethod eglot-handle-request
  ((_server talaria-eglot-server) (_method (eql window/showMessageRequest))
   &key message actions &allow-other-keys)
  "Keep the offer MESSAGE with its ACTIONS; that is answered by a command."
  (talaria-offered message actions)
  nil)

(cl-defmethod eglot-handle-request :before
  ((server talaria-eglot-server) (_method (eql workspace/applyEdit)) &rest _)
  "Send what is pending to SERVER first, so that no edit is stale."
  (dolist (buffer (buffer-list))
    (with-current-buffer buffer
      (when (and (eglot-managed-p) (eq (eglot-current-server) server))
        (eglot--signal-textDocument/didChange)))))

(cl-defmethod eglot-execute ((_server talaria-eglot-server) action)
  "Run ACTION, a command or a code action with one."
  (let ((command (plist-get action :command)))
    (talaria-act (if (stringp command) action command))))

(cl-defmethod talaria-server ((_client (eql eglot)))
  "Return Talaria's server, if it manages this buffer."
  (let ((server (and (eglot-managed-p) (eglot-current-server))))
    (and (cl-typep server 'talaria-eglot-server) (jsonrpc-running-p server) server)))

(cl-defmethod talaria-place ((_client (eql eglot)) position)
  "Return POSITION in the units that Eglot negotiated."
  (save-excursion
    (save-restriction
      (widen)
      (goto-char position)
      (list :uri (eglot-path-to-uri (buffer-file-name (buffer-base-buffer)))
            :position (list :line (1- (line-number-at-pos))
                            :character (funcall eglot-current-linepos-function))))))

(cl-defmethod talaria-send ((_client (eql eglot)) method params &optional then)
  "Send METHOD with PARAMS after what is pending; call THEN with the result."
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
  "Show ghost text if the buffer's server is Talaria's."
  (talaria-attend 'eglot))

(add-hook 'eglot-managed-mode-hook #'talaria-eglot--managed)

(provide 'talaria-eglot)
;;; talaria-eglot.el ends here
